"""What an application does with the real OpenAI client: chat, stream, list, and run into errors.

in: base URL, a model that is there; out: one JSON line that says what came.
"""
import json
import sys

import openai

base_url, model = sys.argv[1:]
# Retries of the client's own would hide errors of ours.
client = openai.OpenAI(base_url=base_url, api_key="sk-none", max_retries=0, timeout=20)
messages = [{"role": "user", "content": "Hello?"}]
said = {}

answer = client.chat.completions.create(model=model, messages=messages)
said["chat"] = answer.choices[0].message.content
said["finish"] = answer.choices[0].finish_reason
stream = client.chat.completions.create(model=model, messages=messages, stream=True)
said["stream"] = "".join(c.choices[0].delta.content or "" for c in stream if c.choices)
said["models"] = [m.id for m in client.models.list()]
try:
    client.chat.completions.create(model="no-such-model", messages=messages)
    said["unknown"] = "answered"
except openai.NotFoundError as error:
    said["unknown"] = {"type": type(error).__name__, "code": error.code, "message": error.message}
raw = client.chat.completions.with_raw_response.create(model=model, messages=messages)
said["endpoint"] = raw.headers.get("x-olla-endpoint")
print(json.dumps(said))
