"""The public API: gRPC over a unix socket (`netd.proto` is its documentation)."""
