"""What to do before a training: is the set-up right, and how deep to freeze.

`check` finds what will probably spoil a training, and `suggest` says what to begin with. Both look
at the model and, where they are given, at the data; neither changes either.
"""

from keras_freeze.advice.check import check as check
from keras_freeze.advice.suggest import suggest as suggest
from keras_freeze.advice.suggestion import Suggestion as Suggestion

__all__: list[str] = []
