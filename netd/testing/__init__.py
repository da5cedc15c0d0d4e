"""What tests of networks are made of; nothing here runs in the daemon."""
