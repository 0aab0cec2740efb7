// Fetches the OpenAPI document for the page it is loaded in, and asks for the server's key where one is needed.
// The key stays in this tab (sessionStorage) and is sent to this server only. Knows neither Swagger UI nor Redoc.

const STORED = "hansang.key";
const base = new URL(".", location.href);

/** The document and the key it took (null: none), once the reader has given a right one in `place`. */
export async function openSpec(place) {
  const secured = document.body.dataset.secured === "true";
  let key = sessionStorage.getItem(STORED);
  let wrong = "";
  for (;;) {
    if (secured && key === null) {
      key = await askForKey(place, wrong);
    }
    const answer = await request(key);
    if (answer.ok) {
      if (key !== null) {
        sessionStorage.setItem(STORED, key);
        place.after(forgetButton());
      }
      const spec = await answer.json();
      // A proxy may have put the server under a path that the server does not know of.
      spec.servers = base.pathname === "/" ? [] : [{ url: base.pathname.slice(0, -1) }];
      return { spec, key };
    }
    const error = await reason(answer);
    if (answer.status !== 401) {
      place.textContent = `The description could not be read: ${error}`;
      throw new Error(error);
    }
    sessionStorage.removeItem(STORED);
    wrong = error;
    key = null;
  }
}

function request(key) {
  const headers = new Headers();
  if (key !== null) {
    headers.set("Authorization", `Bearer ${key}`);
  }
  return fetch(new URL("openapi.json", base), { headers, credentials: "omit", cache: "no-store" });
}

async function reason(answer) {
  try {
    return (await answer.json()).error.message;
  } catch {
    return `status ${answer.status}`;
  }
}

function askForKey(place, wrong) {
  const form = element("form", { className: "ask" });
  const input = element("input", { type: "password", id: "key", autocomplete: "off", required: true });
  input.pattern = "[!-~]+";
  input.title = "printable ASCII characters, without spaces";
  form.append(
    element("h1", { textContent: "hansang" }),
    element("p", { className: "wrong", textContent: wrong }),
    element("label", { htmlFor: "key", textContent: "This server asks for a key (HANSANG_API_KEY)." }),
    input,
    element("button", { textContent: "Open" }),
  );
  place.replaceChildren(form);
  input.focus();
  return new Promise((resolve) => {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      place.replaceChildren();
      resolve(input.value);
    });
  });
}

function forgetButton() {
  const button = element("button", { className: "forget", textContent: "Forget the key" });
  button.addEventListener("click", () => {
    sessionStorage.removeItem(STORED);
    location.reload();
  });
  return button;
}

function element(name, properties) {
  return Object.assign(document.createElement(name), properties);
}
