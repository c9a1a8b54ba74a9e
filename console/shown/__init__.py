"""What pages show, without NiceGUI. Imports watching, the console's client, and readers of artifacts."""
