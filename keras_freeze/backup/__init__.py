"""Resume after an interruption: the whole training state in files, written whole or not at all.

`backup_and_restore` is the callback, `callback_state` keeps what other callbacks have counted,
`archive` writes and reads the files.
"""

from keras_freeze.backup import archive as archive
from keras_freeze.backup.backup_and_restore import BackupAndRestore

__all__ = ["BackupAndRestore"]
