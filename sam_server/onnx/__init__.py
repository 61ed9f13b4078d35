"""SAM as ONNX files: what stands in them, where they lie, what computes them. Needs no torch and no onnx package."""
