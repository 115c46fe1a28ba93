"""The Open Inference Protocol (KServe v2), as Triton's and KServe's clients speak it, over HTTP and gRPC."""
