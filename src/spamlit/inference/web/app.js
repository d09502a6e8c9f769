import { Rows, delimiterOf, line } from './csv.js';

const EXAMPLES = [
  'You have been selected to receive a cash prize',
  'Are we still meeting for dinner tonight?',
  "Congratulations! You've won a free ticket. Call now!",
  'Your parcel is held at our depot. Pay the £1.99 fee at royal-post.help/pay',
];
const NAMES = { spam: 'Spam', ham: 'Not spam' };
const OTHER = { spam: 'ham', ham: 'spam' };
const FLAGS = {
  empty: 'There are no words in it.',
  truncated: 'Only its beginning was read: it is longer than any message of the training.',
  unsure: 'The classifier is not sure. Have a look yourself.',
};
const COLUMNS = ['text', 'message', 'sms', 'body', 'content', 'v2'];
const AT_ONCE = 100; // rows of a request
const PATIENCE = 60; // times that a busy server is asked again

const $ = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(share > 0.001 && share < 0.999 ? 1 : 2)} %`;
let info = { threshold: 0.5, limits: { body: 262144, texts: 1000, characters: 10000 } };
let shown = null; // the message whose verdict is on the page
let asked = 0; // number of the newest question: answers to older ones are dropped

class Refusal extends Error {
  constructor(status, reason, wait) {
    super(reason);
    this.status = status;
    this.wait = wait;
  }
}

/** Asks the server; what it refuses becomes a Refusal with its reason. */
async function ask(path, body, signal) {
  const token = sessionStorage.getItem('token');
  const headers = { ...(body && { 'Content-Type': 'application/json' }), ...(token && { Authorization: `Bearer ${token}` }) };
  let answer;
  try {
    answer = await fetch(path, { method: body ? 'POST' : 'GET', headers, signal, body: body && JSON.stringify(body) });
  } catch (error) {
    throw error.name === 'AbortError' ? error : new Refusal(0, 'The server cannot be reached.');
  }
  const content = await answer.json().catch(() => ({}));
  if (answer.status === 401) showAccess();
  if (!answer.ok) throw new Refusal(answer.status, content.error ?? `The server said ${answer.status}.`, Number(answer.headers.get('Retry-After')));
  return content;
}

function fail(element, error) {
  element.textContent = error?.message ?? '';
  element.hidden = !error;
}

function showAccess() {
  $('access').hidden = false;
  $('token').focus();
}

function element(name, text, className) {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

// A message

async function check(text) {
  const number = ++asked;
  fail($('failure'));
  $('saved').textContent = '';
  try {
    const { results: [said] } = await ask('predict', { texts: [text] });
    if (number !== asked) return;
    shown = { text, ...said };
    showVerdict(said);
    $('decisive').hidden = said.flag === 'empty';
    if (said.flag === 'empty') return;
    showWords([{ text, score: null }]);
    $('decisive').setAttribute('aria-busy', 'true');
    $('summary').textContent = 'Reading word by word …';
    const { parts } = await ask('explain', { text });
    if (number === asked) showWords(parts);
  } catch (error) {
    if (number !== asked) return;
    if (shown?.text === text) $('summary').textContent = `Not explained: ${error.message}`;
    else { hideVerdict(); fail($('failure'), error); }
  } finally {
    if (number === asked) $('decisive').setAttribute('aria-busy', 'false');
  }
}

function hideVerdict() {
  shown = null;
  $('verdict').replaceChildren();
  $('details').hidden = true;
}

function showVerdict({ label, probability, flag }) {
  const flags = flag.split(';').filter((name) => name in FLAGS);
  $('verdict').replaceChildren(
    element('p', NAMES[label], `label ${label}`),
    element('p', `${percent(probability)} likely to be spam (spam from ${percent(info.threshold).replace('.0 ', ' ')} on).`),
    ...flags.map((name) => element('p', FLAGS[name], 'flag quiet')),
  );
  $('details').hidden = false;
  $('verdict').scrollIntoView({ block: 'nearest' });
  $('bar').style.width = `${100 * probability}%`;
  $('mark').style.left = `calc(${100 * info.threshold}% - 1px)`;
  $('wrong').disabled = flag === 'empty';
  $('wrong').textContent = `This is wrong: it is ${NAMES[OTHER[label]].toLowerCase()}`;
}

/** The message, its words marked by what they add to the log-odds of spam; and the foremost named. */
function showWords(parts) {
  const most = Math.max(0.05, ...parts.map(({ score }) => Math.abs(score ?? 0)));
  const level = (score) => [0.15, 0.4, 0.7].filter((least) => Math.abs(score ?? 0) / most >= least).length;
  $('words').replaceChildren(...parts.map(({ text, score }) => (
    level(score) ? element('span', text, `${score > 0 ? 'spam' : 'ham'}-${level(score)}`) : document.createTextNode(text)
  )));
  const foremost = (sign) => [...new Set(parts.filter(({ score }) => sign * score > 0 && level(score))
    .sort((a, b) => sign * (b.score - a.score)).map(({ text }) => `“${text}”`))].slice(0, 5).join(', ');
  const sides = [['spam', foremost(1)], ['not spam', foremost(-1)]].filter(([, words]) => words);
  $('summary').textContent = sides.map(([name, words]) => `Towards ${name}: ${words}.`).join(' ') || 'No word stands out.';
}

async function correct() {
  const label = OTHER[shown.label];
  $('wrong').disabled = true;
  try {
    await ask('correct', { text: shown.text, label });
    $('saved').textContent = `Saved as ${NAMES[label].toLowerCase()}, to learn from. Thank you.`;
  } catch (error) {
    $('wrong').disabled = false;
    $('saved').textContent = `Not saved: ${error.message}`;
  }
}

// A table

let table = null; // { file, delimiter, header }
let stopping = null; // AbortController of the labelling under way

async function openTable(file) {
  stopping?.abort();
  table = null;
  for (const id of ['table-form', 'download', 'progress']) $(id).hidden = true;
  $('table-status').textContent = '';
  fail($('table-failure'));
  if (!file) return;
  try {
    const head = new TextDecoder().decode(await file.slice(0, 65536).arrayBuffer());
    const delimiter = delimiterOf(head);
    const [header] = new Rows(delimiter).push(`${head}\n`);
    if (!header) throw new Error(`${file.name} is empty: a header and rows are needed.`);
    table = { file, delimiter, header };
    $('column').replaceChildren(...header.map((name, i) => new Option(name || `column ${i + 1}`, i)));
    const guess = COLUMNS.map((name) => header.findIndex((cell) => cell.trim().toLowerCase() === name)).find((i) => i >= 0);
    $('column').value = guess ?? header.length - 1;
    $('table-form').hidden = false;
    $('table-status').textContent = `${file.name}: ${header.length} column${header.length > 1 ? 's' : ''}.`;
  } catch (error) {
    fail($('table-failure'), error);
  }
}

/** The file's rows, and how far in it they end; the first is the header. */
async function* rowsOf({ file, delimiter }) {
  const rows = new Rows(delimiter);
  const decoder = new TextDecoder('utf-8', { fatal: true });
  const reader = file.stream().getReader();
  let read = 0;
  const decode = (...piece) => {
    try {
      return decoder.decode(...piece);
    } catch {
      throw new Error(`${file.name} is not UTF-8. Save it as “CSV UTF-8” and try again.`);
    }
  };
  for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) {
    read += value.length;
    for (const row of rows.push(decode(value, { stream: true }))) yield [row, read / file.size];
  }
  for (const row of [...rows.push(decode()), ...rows.end()]) yield [row, 1];
}

/** As much of a text as the server takes: of a longer one the beginning. */
function beginning(text) {
  let read = [...text].slice(0, info.limits.characters);
  while (bytes(read.join('')) >= info.limits.body - 100) read = read.slice(0, read.length / 2);
  return read.join('');
}

/** Results of some texts, with the flags of `spamlit predict`; a busy server is asked again. */
async function label(texts, signal) {
  const sent = texts.map(beginning);
  for (let left = PATIENCE; ; left -= 1) {
    try {
      const { results } = await ask('predict', { texts: sent }, signal);
      return results.map((result, i) => {
        const flags = new Set(result.flag.split(';').filter(Boolean));
        if (sent[i] !== texts[i]) flags.add('truncated');
        if (sent[i].includes('\0')) flags.add('NUL');
        return { ...result, flag: [...flags].join(';') };
      });
    } catch (error) {
      if (error.status !== 503 || !left) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1000 * (error.wait || 1)));
      signal.throwIfAborted();
    }
  }
}

const bytes = (text) => new TextEncoder().encode(JSON.stringify(text)).length + 1;

async function labelTable() {
  const { file, delimiter, header } = table;
  const column = Number($('column').value);
  const counts = { spam: 0, ham: 0 };
  const output = [];
  stopping = new AbortController();
  const { signal } = stopping;
  let waiting = [];
  let size = 0;

  async function flush(part) {
    const results = await label(waiting.map((row) => row[column] ?? ''), signal);
    signal.throwIfAborted();
    output.push(waiting.map((row, i) => {
      const { label: said, probability, flag } = results[i];
      counts[said] += 1;
      const padded = [...row, ...Array(Math.max(0, header.length - row.length)).fill('')];
      return line([...padded, said, String(Number(probability.toPrecision(6))), flag], delimiter);
    }).join(''));
    $('progress').value = part;
    waiting = [];
    size = 0;
  }

  let seen = 0;
  let first = true;
  for await (const [row, part] of rowsOf(table)) {
    if (first) {
      const named = ['label', 'probability', 'flag'].map((name) => (header.includes(name) ? `spamlit_${name}` : name));
      output.push(`\ufeff${line([...row, ...named], delimiter)}`);
      first = false;
      continue;
    }
    if (row.length > header.length) throw new Error(`Row ${seen + 1} has ${row.length} cells; the header has ${header.length}.`);
    const more = bytes(beginning(row[column] ?? ''));
    if (waiting.length && (waiting.length >= Math.min(AT_ONCE, info.limits.texts) || size + more > info.limits.body - 100)) await flush(part);
    waiting.push(row);
    size += more;
    seen += 1;
  }
  if (waiting.length) await flush(1);
  $('table-status').textContent = `${seen} messages: ${counts.spam} spam, ${counts.ham} not spam.`;
  offer(new Blob(output, { type: 'text/csv' }), file.name.replace(/(\.\w+)?$/, '-labelled$1'));
}

function offer(blob, name) {
  const link = $('download');
  URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.textContent = `Download ${name}`;
  link.hidden = false;
}

async function startTable() {
  const button = $('table-form').querySelector('.primary');
  fail($('table-failure'));
  $('download').hidden = true;
  $('progress').value = 0;
  $('table-status').textContent = 'Labelling …';
  for (const id of ['progress', 'cancel']) $(id).hidden = false;
  button.disabled = true;
  try {
    await labelTable();
  } catch (error) {
    $('table-status').textContent = error.name === 'AbortError' ? 'Stopped.' : '';
    if (error.name !== 'AbortError') fail($('table-failure'), error);
  } finally {
    stopping = null;
    button.disabled = false;
    for (const id of ['progress', 'cancel']) $(id).hidden = true;
  }
}

// The page

async function introduce() {
  try {
    info = await ask('info');
    $('access').hidden = true;
    $('about').textContent = `${info.backbone}, ${info.precision}; reads ${info.max_length} tokens; spamlit ${info.versions.spamlit}.`;
  } catch (error) {
    if (error.status !== 401) fail($('failure'), error);
  }
}

const onSubmit = (id, act) => $(id).addEventListener('submit', (event) => { event.preventDefault(); act(); });

$('examples').append(...EXAMPLES.map((text) => {
  const item = document.createElement('li');
  const button = element('button', text);
  button.type = 'button';
  button.addEventListener('click', () => { $('message').value = text; check(text); });
  item.append(button);
  return item;
}));
onSubmit('message-form', () => check($('message').value.toWellFormed?.() ?? $('message').value));
$('message').addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) $('message-form').requestSubmit();
});
$('wrong').addEventListener('click', correct);
onSubmit('access-form', () => { sessionStorage.setItem('token', $('token').value); introduce(); });

$('file').addEventListener('change', () => openTable($('file').files[0]));
onSubmit('table-form', startTable);
$('cancel').addEventListener('click', () => stopping?.abort());
for (const name of ['dragover', 'dragleave', 'drop']) {
  $('drop').addEventListener(name, (event) => {
    event.preventDefault();
    $('drop').classList.toggle('over', name === 'dragover');
    if (name === 'drop') openTable(event.dataTransfer.files[0]);
  });
}
introduce();
