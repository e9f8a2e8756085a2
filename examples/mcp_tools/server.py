"""An MCP server with two tools; it speaks over stdin and stdout, so it prints nothing itself."""

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("units")
METRES = {"m": 1.0, "km": 1000.0, "mile": 1609.344, "foot": 0.3048}


@server.tool()
def convert(length: float, unit: str, to: str) -> float:
    """Convert a length; the units are m, km, mile and foot."""
    if unit not in METRES or to not in METRES:
        raise ToolError(f"the units are {', '.join(METRES)}")
    return length * METRES[unit] / METRES[to]


@server.tool()
async def units() -> list[str]:
    """List the units of length."""
    return list(METRES)


if __name__ == "__main__":
    server.run()
