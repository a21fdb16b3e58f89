"""A server that speaks as OpenAI's chat completions and knows nothing: examples and tests need no key and no network.

It calls each tool that it is offered once, in their order, and then answers with what the last one said. Texts that a
tool asks for are what the last one said, or the last word of the question; a `city` is always that word.
"""

import argparse
import itertools
import json
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NUMBERS = itertools.count(1)


def complete(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request."""
    messages = request["messages"]
    tools = [tool["function"] for tool in request.get("tools", [])]
    called = {call["function"]["name"] for m in messages for call in m.get("tool_calls") or []}
    word = _text(next(m for m in messages if m["role"] == "user")).split()[-1].strip("?!.")
    said = next((_text(m) for m in reversed(messages) if m["role"] == "tool"), word)
    tool = next((tool for tool in tools if tool["name"] not in called), None)
    message: dict[str, Any] = {"role": "assistant", "content": None if tool else said}
    if tool:
        properties = tool.get("parameters", {}).get("properties", {})
        arguments = {name: _argument(name, schema, word, said) for name, schema in properties.items()}
        function = {"name": tool["name"], "arguments": json.dumps(arguments)}
        message["tool_calls"] = [{"id": f"call-{next(NUMBERS)}", "type": "function", "function": function}]
    return {
        "id": f"completion-{next(NUMBERS)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls" if tool else "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


def _argument(name: str, schema: dict[str, Any], word: str, said: str) -> Any:
    others = {"integer": 3, "number": 3.5, "boolean": True, "array": [], "object": {}}
    return others.get(schema.get("type", "string"), word if name == "city" else said)


class Handler(BaseHTTPRequestHandler):
    """Answers requests."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Says that it is there, for probes."""
        self._answer(200, {"object": "list", "data": []})

    def do_POST(self) -> None:
        """Completes a chat."""
        request = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        if not self.path.endswith("/chat/completions") or request.get("stream"):
            self._answer(400, {"error": {"message": "only chat completions, and none in parts"}})
            return
        self._answer(200, complete(request))

    def _answer(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    """Serves until it is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free; it is printed")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # else the first process of a container ignores it
    server = ThreadingHTTPServer((arguments.host, arguments.port), Handler)
    print(f"http://{arguments.host}:{server.server_port}/v1", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
