"""What Prometheus' own strict parser makes of a page of metrics.

in: URL; out: one JSON line, family -> {type, help, unit, samples, labels}.
"""
import json
import sys
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families

(url,) = sys.argv[1:]
with urllib.request.urlopen(url, timeout=20) as answer:
    kind, text = answer.headers["content-type"], answer.read().decode()
assert kind.startswith("application/openmetrics-text; version=1.0.0"), kind
families = {
    family.name: {
        "type": family.type,
        "help": family.documentation,
        "unit": family.unit,
        "samples": len(family.samples),
        "labels": sorted({label for sample in family.samples for label in sample.labels}),
    }
    for family in text_string_to_metric_families(text)
}
print(json.dumps(families))
