"""The storage of uploaded files: bytes under their own hash. The operations decide who may read them."""
