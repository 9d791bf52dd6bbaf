"""The logger of whisperlab, by the name that programs set levels and handlers for."""

import logging

logger = logging.getLogger("whisperlab")
