"""The minimal runtime: processes in namespaces and cgroups. It knows nothing of networks."""
