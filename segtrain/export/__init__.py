"""Models as files that run without segtrain: ONNX, TorchScript, torch.export."""
