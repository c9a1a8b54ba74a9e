"""Pages as people meet them: a real Chromium, a real service, no network but this machine."""
