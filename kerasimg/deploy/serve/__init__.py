"""HTTP server for exported models. It runs LiteRT, ONNX Runtime or OpenVINO and does not load TensorFlow.

Only `app.py`, `guard.py` and `server.py` import the web packages of the extra `serve`.
"""
