"""A trained student outside of training: ONNX files, eight bits, when to keep silent, a runtime without torch.

May import learn, data, judge and the ground; `classifier` imports `data.band` and `data.images` alone, which ship
beside it.
"""
