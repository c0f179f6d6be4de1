// The API's description, from /openapi.json; the usual page for it loads scripts from elsewhere.

import { h, head, message } from "/static/common.js";

const main = document.getElementById("main");
head();
try {
  const about = await (await fetch("/openapi.json")).json();
  const routes = Object.entries(about.paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, route]) => ({ path, method, ...route })));
  main.replaceChildren(
    h("div", { class: "title" }, h("h1", {}, "HTTP API"), h("a", { href: "/openapi.json" }, "openapi.json")),
    h("p", {}, "JSON in, JSON out; an error is { \"detail\": one sentence }. With a token: the header ", h("code", {}, "Authorization: Bearer …"), "."),
    ...routes.map((route) => section(route, about.components.schemas)));
} catch {
  message(main, "the program does not answer; look whether it still runs", true);
}

function section({ path, method, description, parameters = [], requestBody }, schemas) {
  const body = requestBody?.content?.["application/json"]?.schema?.$ref;
  const rows = parameters.map(({ name, in: where, required, schema }) => [name, where, required, schema]);
  if (body) {
    const { properties, required = [] } = schemas[body.split("/").pop()];
    rows.push(...Object.entries(properties).map(([name, schema]) => [name, "body", required.includes(name), schema]));
  }
  return h("section", { class: "card" }, h("h2", {}, h("code", {}, `${method.toUpperCase()} ${path}`)), h("p", {}, description ?? ""),
    rows.length ? h("table", {}, h("thead", {}, h("tr", {}, ["name", "in", "type"].map((words) => h("th", {}, words)))),
      h("tbody", {}, rows.map(([name, where, required, schema]) => h("tr", {}, h("th", { scope: "row" }, name + (required ? "" : " (optional)")), h("td", {}, where), h("td", {}, kind(schema, schemas)))))) : null);
}

/** A schema in a few words. */
function kind(schema, schemas) {
  if (schema.$ref) return kind(schemas[schema.$ref.split("/").pop()], schemas);
  if (schema.anyOf) return schema.anyOf.map((one) => kind(one, schemas)).join(" or ");
  if (schema.enum) return schema.enum.join(", ");
  if (schema.type === "array" && schema.items) return `list of ${kind(schema.items, schemas)}`;
  if (schema.prefixItems) return `list of ${schema.prefixItems.map((one) => one.type).join(", ")}`;
  const low = schema.minimum ?? schema.exclusiveMinimum;
  const bounds = low !== undefined ? ` from ${low}${schema.maximum !== undefined ? ` to ${schema.maximum}` : ""}` : "";
  const text = schema.default !== undefined && schema.default !== null ? `; ${JSON.stringify(schema.default)} if left out` : "";
  return `${schema.type ?? "anything"}${bounds}${text}${schema.description ? `; ${schema.description}` : ""}`;
}
