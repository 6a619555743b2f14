"""The same with the real Anthropic client. in: base URL, model; out: one JSON line."""
import json
import sys

import anthropic

base_url, model = sys.argv[1:]
client = anthropic.Anthropic(base_url=base_url, api_key="sk-none", max_retries=0, timeout=20)
ask = {"model": model, "max_tokens": 50, "messages": [{"role": "user", "content": "Hello?"}]}
said = {}

said["chat"] = client.messages.create(**ask).content[0].text
with client.messages.stream(**ask) as stream:
    said["stream"] = "".join(stream.text_stream)
    said["stop"] = stream.get_final_message().stop_reason
try:
    client.messages.create(**{**ask, "model": "no-such-model"})
    said["unknown"] = "answered"
except anthropic.NotFoundError as error:
    said["unknown"] = {"type": type(error).__name__, "body": error.body}
print(json.dumps(said))
