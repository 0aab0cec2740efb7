// Starts Swagger UI with the document of this server; "Try it out" sends the key that opened the page.
import { openSpec } from "./spec.js";

const { spec, key } = await openSpec(document.getElementById("ui"));
const ui = SwaggerUIBundle({
  spec,
  dom_id: "#ui",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  validatorUrl: null,
  onComplete: () => {
    if (key !== null) {
      ui.preauthorizeApiKey("key", key);
    }
  },
});
