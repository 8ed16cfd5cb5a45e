# Steer a generation and explain it, over HTTP. Each `# %%` is a cell in Jupyter, VS Code or Spyder; as a script it prints all.
# Needs `pip install httpx` and a server: `cargo run --release`. STEERLING_URL says where it is.

# %%
import os

import httpx

client = httpx.Client(base_url=os.environ.get("STEERLING_URL", "http://localhost:8080"), timeout=120)


def get(path, **params):
    return answer(client.get(path, params=params))


def post(path, **body):
    return answer(client.post(path, json=body))


def answer(response):
    """The JSON of an answer; a refusal becomes an exception that says what the server said."""
    body = response.json()
    if response.is_error:
        raise RuntimeError(f"{response.status_code} {body['error']['code']}: {body['error']['message']}")
    return body


def bar(share, width=30):
    return "█" * round(share * width)


print(get("/info")["model"]["name"])

# %% Generate: the same seed gives the same text.
PROMPT = "The neighbour moved the table."
plain = post("/generate", prompt=PROMPT, max_new_tokens=32, seed=11)
print("\nunsteered:", plain["text"])

# %% Find a concept: what sets two sets of texts apart?
space = ["The rocket orbited the moon.", "The alien counted the stars."]
kitchen = ["The chef stirred the soup.", "The baker salted the dough."]
print("\nmore in the first set than in the second:")
for found in post("/concepts/contrast", a=space, b=kitchen, top_k=6)["items"]:
    if found["head"] == "known" and found["mean_a"] > found["mean_b"]:
        print(f"  {found['name']:10} {found['mean_a']:.2f} against {found['mean_b']:.2f}, AUC {found['auc']:.2f}")

# %% Look at what it promotes, before it is used.
CONCEPT = {"name": "Space"}
promoted = [token["text"] for token in get("/concepts/Space/tokens", k=50)["tokens"]]
print("\npromotes:", " ".join(token.strip() for token in promoted[:8]))

# %% Find a strength: several in one request, over a few seeds. Strong enough to show, not so strong that the model, when it is
# not steered, finds the text unlikely.
MULTIPLIERS = [0, 0.125, 0.25, 0.5, 2, 4]
runs = {}
for seed in range(8):
    swept = post("/steer", prompt=PROMPT, max_new_tokens=32, seed=seed, sweep=MULTIPLIERS,
                 steering={"amplify": [{"concept": CONCEPT, "target": 8}]})
    runs.setdefault(8, []).append(swept["steered"])
    for run in swept["sweep"]:
        runs.setdefault(8 * run["multiplier"], []).append(run["result"])

ids = {token["id"] for token in get("/concepts/Space/tokens", k=50)["tokens"]}
print("\ntarget  promoted tokens  different pairs  log-likelihood a token")
for target, results in sorted(runs.items()):
    texts = [result["token_ids"] for result in results]
    promoted_rate = sum(id in ids for text in texts for id in text) / sum(map(len, texts))
    pairs = sum(len(set(zip(text, text[1:]))) / (len(text) - 1) for text in texts) / len(texts)
    items = [{"context": PROMPT, "continuation": result["text"]} for result in results]
    scores = post("/score", items=items, method="left_to_right")["results"]
    likelihood = sum(score["loglikelihood"] for score in scores) / sum(score["tokens"] for score in scores)
    print(f"{target:6.0f}  {promoted_rate:15.2f}  {pairs:15.2f}  {likelihood:22.2f}")

# %% Is it the concept, or would any push do that? The same recipe with random concepts.
steered = post("/steer", prompt=PROMPT, max_new_tokens=32, seed=11, compare=True, controls={"random_concepts": 4},
               steering={"amplify": [{"concept": CONCEPT}]})
print("\nsteered:", steered["steered"]["text"])
for name, of in steered["effect"].items():
    if isinstance(of, dict):
        print(f"{name:20}", {kind: round(value, 2) for kind, value in of.items()})

# %% Explain: which concepts did the tokens come from?
explained = post("/attribute", prompt="The chef stirred the", max_new_tokens=6, seed=63,
                 inputs={"method": "integrated_gradients", "n_steps": 32})
print("\ntoken        known unknown epsilon  strongest known concept")
for token in explained["tokens"]:
    parts = token["fractions"]
    strongest = token["known"][0]
    print(f"{token['text']!r:12} {parts['known']:5.2f} {parts['unknown']:7.2f} {parts['epsilon']:7.2f}  "
          f"{strongest['name']}: {strongest['contribution']:+.2f} of {token['target_logit']:.2f}")
print("adds up:", explained["verify"]["passed"])

# %% And from which words of the prompt?
print("\nthe prompt, by mean share of the scores:")
for token in explained["inputs"]["prompt_ranking"]:
    print(f"{token['text']!r:12} {token['score']:+.2f} {bar(abs(token['score']))}")
