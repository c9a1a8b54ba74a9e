"""What browsers load: the tag, and pages that use it. Imports process, and of http its request_log."""
