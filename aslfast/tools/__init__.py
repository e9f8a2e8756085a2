"""Tools that a model may call besides the search: functions of one's own, and those of MCP servers."""

from aslfast.tools.protocol import Tool, ToolError, ToolFailed

__all__ = ["Tool", "ToolError", "ToolFailed"]
