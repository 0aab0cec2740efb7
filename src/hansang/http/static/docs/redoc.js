// Starts Redoc with the document of this server.
import { openSpec } from "./spec.js";

const place = document.getElementById("ui");
const { spec } = await openSpec(place);
// A model's title and card come from its file.
Redoc.init(spec, { sanitize: true }, place);
