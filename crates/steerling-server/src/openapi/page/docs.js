// Shows openapi.json. Text becomes DOM text, never markup; fields of a schema are made when somebody opens them.

const METHODS = ['get', 'post', 'put', 'patch', 'delete'];
let spec;
let key = '';

function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) {
    if (attribute.startsWith('on')) node.addEventListener(attribute.slice(2), value);
    else if (value !== undefined && value !== false) node.setAttribute(attribute, value);
  }
  node.append(...children.filter((child) => child !== undefined));
  return node;
}

/** The little markup that descriptions use: paragraphs and `code`. */
function prose(text = '') {
  return text.split(/\n\s*\n/).filter(Boolean).map((paragraph) =>
    el('p', {}, ...paragraph.split(/(`[^`]+`)/).map((part) =>
      part.startsWith('`') && part.endsWith('`') ? el('code', {}, part.slice(1, -1)) : part)));
}

const nameOf = (ref) => ref.split('/').at(-1);

/** Follows references; what stands beside one wins. */
function resolve(schema = {}) {
  if (!schema.$ref) return schema;
  const { $ref, ...beside } = schema;
  return { ...resolve(spec.components.schemas[nameOf($ref)]), ...beside };
}

const isNull = (schema) => schema.type === 'null';
const choices = (schema) => schema.oneOf ?? schema.anyOf;

/** A schema in a few words. */
function typeOf(schema = {}) {
  if (schema.$ref) {
    const { enum: words } = resolve(schema);
    return words ? words.map((word) => JSON.stringify(word)).join(' | ') : nameOf(schema.$ref);
  }
  if (schema.enum) return schema.enum.map((word) => JSON.stringify(word)).join(' | ');
  if (choices(schema)) return choices(schema).map(typeOf).join(' | ');
  if (schema.allOf) return schema.allOf.map(typeOf).join(' & ');
  const types = [schema.type ?? 'any'].flat();
  return types.map((type) => {
    if (type !== 'array') return type;
    if (schema.prefixItems) return `[${schema.prefixItems.map(typeOf).join(', ')}]`;
    return `array of ${typeOf(schema.items)}`;
  }).join(' | ');
}

function limits(schema) {
  const said = [];
  const { minimum, maximum, minLength, maxLength, minItems, maxItems } = schema;
  const range = (low, high, what) => {
    if (low !== undefined && high !== undefined) said.push(`${low} to ${high}${what}`);
    else if (low) said.push(`at least ${low}${what}`);
    else if (high !== undefined) said.push(`at most ${high}${what}`);
  };
  range(minimum, maximum > 2 ** 53 ? undefined : maximum, '');
  range(minLength, maxLength, ' characters');
  range(minItems, maxItems, ' items');
  if (schema.default !== undefined) said.push(`default ${JSON.stringify(schema.default)}`);
  return said.join(', ');
}

/** The schemas whose fields a reader may want to see below this one. */
function inner(schema = {}) {
  const full = resolve(schema);
  if (full.items) return inner(full.items);
  if (choices(full)) return choices(full).filter((choice) => !isNull(choice)).flatMap(inner);
  return full.properties || full.allOf ? [schema] : [];
}

/** All fields of an object, those of its parts included. */
function fieldsOf(schema) {
  const full = resolve(schema);
  const parts = (full.allOf ?? []).map(fieldsOf);
  const required = [...(full.required ?? []), ...parts.flatMap((part) => part.required)];
  return { properties: Object.assign({}, ...parts.map((part) => part.properties), full.properties), required };
}

function field(name, schema, required) {
  const full = resolve(schema);
  const described = [schema.description ?? choices(schema)?.[0]?.description ?? full.description];
  return [
    el('dt', {}, el('span', { class: 'name' }, name), ' ', required ? el('span', { class: 'required' }, 'required') : ''),
    el('dd', {}, el('span', { class: 'type' }, typeOf(schema), limits(full) ? ` (${limits(full)})` : ''),
      ...described.flatMap(prose), ...inner(schema).map(lazily)),
  ];
}

/** Made when it is opened, so that recursion and size cost nothing. */
function lazily(schema) {
  const full = resolve(schema);
  const title = schema.$ref ? nameOf(schema.$ref) : (full.description ?? 'fields');
  const details = el('details', {}, el('summary', {}, title));
  details.addEventListener('toggle', () => details.append(fieldList(schema)), { once: true });
  return details;
}

function fieldList(schema) {
  const { properties, required } = fieldsOf(schema);
  return el('dl', {}, ...Object.entries(properties).flatMap(([name, of]) => field(name, of, required.includes(name))));
}

const shown = (value) => (typeof value === 'string' ? value : JSON.stringify(value, null, 2));

function examplesOf(content) {
  return Object.entries(content?.examples ?? {}).map(([name, { summary, value }]) => ({ name, summary: summary ?? name, value }));
}

function response(status, { description, content = {} }) {
  return el('details', {}, el('summary', {}, el('strong', {}, status), ' ', ...prose(description).flatMap((p) => [...p.childNodes])),
    ...Object.entries(content).flatMap(([type, media]) => [
      el('p', { class: 'soft' }, type),
      ...inner(media.schema?.contentSchema ?? media.schema).map(lazily),
      ...examplesOf(media).map(({ summary, value }) => el('details', {}, el('summary', {}, `Example: ${summary}`), el('pre', { tabindex: 0 }, shown(value)))),
    ]));
}

/** A form that sends the operation, and its command line. */
function trial(method, path, operation) {
  const examples = examplesOf(operation.requestBody?.content?.['application/json']);
  const body = examples.length ? el('textarea', { 'aria-label': 'Request body', spellcheck: 'false' }) : undefined;
  const inputs = (operation.parameters ?? []).map((parameter) => ({
    parameter,
    input: el('input', { value: parameter.required ? Object.values(parameter.examples ?? {})[0]?.value ?? '' : '', placeholder: parameter.schema?.default ?? '' }),
  }));
  const command = el('pre', { tabindex: 0 });
  const output = el('pre', { tabindex: 0, 'aria-live': 'polite', hidden: '' });
  let abort;
  const send = el('button', { type: 'button', onclick: run }, 'Send');
  const stop = el('button', { type: 'button', disabled: '', onclick: () => abort.abort() }, 'Stop');
  const select = examples.length > 1
    ? el('select', { 'aria-label': 'Example', onchange: choose }, ...examples.map(({ summary }, i) => el('option', { value: i }, summary)))
    : undefined;

  function choose() {
    if (body) body.value = shown(examples[select ? Number(select.value) : 0].value);
    update();
  }
  function address() {
    const target = inputs.filter(({ parameter }) => parameter.in === 'path')
      .reduce((made, { parameter, input }) => made.replace(`{${parameter.name}}`, encodeURIComponent(input.value)), path);
    const query = new URLSearchParams(inputs.filter(({ parameter, input }) => parameter.in === 'query' && input.value)
      .map(({ parameter, input }) => [parameter.name, input.value]));
    return new URL(target.slice(1) + (query.size ? `?${query}` : ''), document.baseURI);
  }
  function update() {
    const quoted = body?.value.replaceAll("'", "'\\''");
    command.textContent = `curl ${/"stream": true/.test(body?.value) ? '-N ' : ''}'${address()}'`
      + (key ? ' -H "authorization: Bearer $KEY"' : '')
      + (body ? ` -H 'content-type: application/json' -d '${quoted}'` : '');
  }
  async function run() {
    abort = new AbortController();
    send.disabled = true;
    stop.disabled = false;
    output.hidden = false;
    output.textContent = '';
    try {
      const headers = { ...(body && { 'content-type': 'application/json' }), ...(key && { authorization: `Bearer ${key}` }) };
      const answer = await fetch(address(), { method: method.toUpperCase(), headers, body: body?.value, signal: abort.signal });
      output.textContent = `${answer.status} ${answer.statusText}, ${answer.headers.get('content-type')}\n\n`;
      const isJson = answer.headers.get('content-type')?.includes('json');
      if (isJson) output.append(JSON.stringify(await answer.json(), null, 2));
      else for await (const piece of pieces(answer.body)) output.append(piece);
    } catch (error) {
      output.append(`\n${error.name === 'AbortError' ? 'stopped' : error.message}`);
    } finally {
      send.disabled = false;
      stop.disabled = true;
    }
  }
  body?.addEventListener('input', update);
  inputs.forEach(({ input }) => input.addEventListener('input', update));
  const form = el('details', {}, el('summary', {}, 'Try it'), el('div', {}, select, body,
    ...inputs.map(({ parameter, input }) => el('label', {}, parameter.name, input)), command, send, stop, output));
  form.addEventListener('toggle', choose, { once: true });
  return form;
}

/** The text of a stream as it comes. */
async function* pieces(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) yield value;
}

function article(method, path, operation) {
  const request = operation.requestBody?.content?.['application/json']?.schema;
  const parameters = operation.parameters ?? [];
  return el('article', { id: operation.operationId },
    el('h3', {}, el('span', { class: `method ${method}` }, method.toUpperCase()), el('span', { class: 'path' }, path)),
    ...prose(operation.summary), ...prose(operation.description),
    ...(parameters.length ? [el('h4', {}, 'Parameters'), el('dl', {}, ...parameters.flatMap(({ name, schema, description, required }) =>
      field(name, { ...schema, description }, required)))] : []),
    ...(request ? [el('h4', {}, 'Request'), lazily(request)] : []),
    el('h4', {}, 'Responses'), ...Object.entries(operation.responses).map(([status, of]) => response(status, of)),
    trial(method, path, operation));
}

async function main() {
  const answer = await fetch('openapi.json');
  if (!answer.ok) throw new Error(`openapi.json: ${answer.status}`);
  spec = await answer.json();
  const operations = Object.entries(spec.paths).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]).map((method) => ({ method, path, operation: item[method] })));
  const tags = spec.tags.map((tag) => ({ ...tag, of: operations.filter(({ operation }) => operation.tags?.includes(tag.name)) }))
    .filter(({ of }) => of.length);
  const keyed = spec.components.securitySchemes
    ? el('label', {}, 'API key, kept in this page only', el('input', { type: 'password', autocomplete: 'off', oninput: ({ target }) => { key = target.value; } }))
    : undefined;
  document.querySelector('#nav').append(el('strong', {}, spec.info.title), ...tags.flatMap(({ name, of }) => [
    el('h2', {}, name),
    el('ul', {}, ...of.map(({ method, path, operation }) => el('li', {},
      el('a', { href: `#${operation.operationId}`, title: operation.summary }, el('span', { class: `method ${method}` }, method.toUpperCase()), path)))),
  ]));
  document.querySelector('#main').replaceChildren(
    el('h1', {}, `${spec.info.title} ${spec.info.version}`), ...prose(spec.info.description),
    el('p', {}, el('a', { href: 'openapi.json' }, 'openapi.json')), ...(keyed ? [keyed] : []),
    ...tags.map(({ name, description, of }) => el('section', { class: 'tag' }, el('h2', {}, name), ...prose(description),
      ...of.map(({ method, path, operation }) => article(method, path, operation)))));
  // The place was not there yet when the browser looked for it.
  if (location.hash) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
}

main().catch((error) => { document.querySelector('#state').textContent = `The description cannot be shown: ${error.message}`; });
