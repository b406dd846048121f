"""A trained student outside of training: ONNX files, eight bits, their speed, a model card, a runtime without torch.

May import learn, data, judge and the ground; `classifier` imports nothing of the package, since it is what ships.
"""
