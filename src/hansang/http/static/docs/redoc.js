// Starts Redoc with the document of this server.
import { openSpec } from "./spec.js";

const place = document.getElementById("ui");
const { spec } = await openSpec(place);
Redoc.init(spec, {}, place);
