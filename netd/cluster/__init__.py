"""A cluster's memory: what many hosts agree on, kept in etcd."""
