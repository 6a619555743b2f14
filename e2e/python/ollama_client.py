"""The same with the real Ollama client. in: host, model; out: one JSON line."""
import json
import sys

import ollama

host, model = sys.argv[1:]
client = ollama.Client(host=host, timeout=20)
messages = [{"role": "user", "content": "Hello?"}]
said = {}

said["chat"] = client.chat(model=model, messages=messages).message.content
parts = client.chat(model=model, messages=messages, stream=True)
said["stream"] = "".join(part.message.content or "" for part in parts)
said["models"] = [m.model for m in client.list().models]
try:
    client.chat(model="no-such-model", messages=messages)
    said["unknown"] = "answered"
except ollama.ResponseError as error:
    said["unknown"] = {"status": error.status_code, "message": error.error}
print(json.dumps(said))
