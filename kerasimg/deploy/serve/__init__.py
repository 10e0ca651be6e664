"""The server of an exported model: HTTP in, probabilities out, over LiteRT or ONNX Runtime; TensorFlow is not loaded.

Of the packages of the extra `serve`, those of the web are imported by `app.py`, `front.py`, `guard.py` and
`server.py` alone.
"""
