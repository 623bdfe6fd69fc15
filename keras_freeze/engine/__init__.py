"""The engine: the one place that changes a model.

`transitions` sets flags and rebuilds the train step, `optimizer_state` carries the optimizer's
state over, `update_rules` gives each variable its learning-rate multiplier and step count,
`snapshot` copies the whole training state to the host and back. Nothing here decides what to
freeze or when.
"""
