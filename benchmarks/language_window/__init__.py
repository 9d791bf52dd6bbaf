"""Language identification by window length: `windows` scores windows of real speech, `figures` draws the accuracy."""
