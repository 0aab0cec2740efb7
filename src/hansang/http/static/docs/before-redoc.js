// Runs before Redoc: gives the styles it writes the page's nonce, and keeps its footer from fetching a logo from its
// makers' host. So the page's policy holds, and Redoc's file stays as published.
"use strict";

{
  const { nonce } = document.currentScript;
  const createElement = document.createElement.bind(document);
  const isOurs = (address) => new URL(address, location.href).origin === location.origin;

  const guardImage = (image) => {
    const setAttribute = image.setAttribute.bind(image);
    image.setAttribute = (name, value) => {
      if (name !== "src" || isOurs(value)) {
        setAttribute(name, value);
      } else {
        image.hidden = true;
      }
    };
    Object.defineProperty(image, "src", {
      get: () => image.getAttribute("src") ?? "",
      set: (value) => image.setAttribute("src", value),
    });
  };

  document.createElement = (name, options) => {
    const made = createElement(name, options);
    if (name === "style") {
      made.nonce = nonce;
    } else if (name === "img") {
      guardImage(made);
    }
    return made;
  };
}
