"""Does an application notice that its stream was cut? Streams with the real client named first.

in: client, base URL, model; out: one JSON line with what came and the error that ended it.
"""
import json
import sys

client, url, model = sys.argv[1:]
messages = [{"role": "user", "content": "Hello?"}]


def openai_text():
    import openai

    sdk = openai.OpenAI(base_url=f"{url}/v1", api_key="sk-none", max_retries=0, timeout=20)
    for chunk in sdk.chat.completions.create(model=model, messages=messages, stream=True):
        yield chunk.choices[0].delta.content or ""


def ollama_text():
    import ollama

    for part in ollama.Client(host=url, timeout=20).chat(model=model, messages=messages, stream=True):
        yield part.message.content or ""


def anthropic_text():
    import anthropic

    sdk = anthropic.Anthropic(base_url=url, api_key="sk-none", max_retries=0, timeout=20)
    with sdk.messages.stream(model=model, max_tokens=50, messages=messages) as stream:
        yield from stream.text_stream


said = {"text": "", "error": None}
try:
    for text in {"openai": openai_text, "ollama": ollama_text, "anthropic": anthropic_text}[client]():
        said["text"] += text
except Exception as error:  # which class is the answer
    said["error"] = {"module": type(error).__module__.split(".")[0], "message": str(error)}
print(json.dumps(said))
