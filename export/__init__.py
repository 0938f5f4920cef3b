"""From a frozen model to an ONNX file that runs in integers."""

if __name__ != "qkd_deploy.export":
    raise ImportError(f"import qkd_deploy.export instead of {__name__}")
