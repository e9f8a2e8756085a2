"""The lab: a fictional encyclopaedia with an oracle, and the tiny base that starts mediocre at every role."""
