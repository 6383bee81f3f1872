// Keeps the QR code of the sign-in page fresh, says what became of it, and gets a new one when it
// has expired. The page works without this script: a frame on it then looks again by itself.
import { hosted } from './qrgrant.js';

// A page that nobody sits at does not ask for codes for ever.
const mostRounds = 3;
// A cut that is mended sooner is nobody's concern.
const lostMillis = 3000;

const box = document.getElementById('qr');
const part = (id) => document.getElementById(id);
let watcher = null;
let left = false; // the page is on its way elsewhere
let drawn = ''; // the frame on the screen, or on its way there
let deadline = 0;
let lost = 0;
let rounds = 0;
let renewing = false;
let plain = false; // renewing by script failed: the button sends its form

function show(status, detail = {}) {
  box.dataset.status = status;
  for (const element of box.querySelectorAll('[data-show]')) {
    element.hidden = !element.dataset.show.split(' ').includes(status);
  }
  deadline = detail.expires_in ? Date.now() + 1000 * detail.expires_in : 0;
  tick();
}

function text(id, value) {
  const element = part(id);
  if (element.textContent !== (value || '')) element.textContent = value || '';
}

function tick() {
  const seconds = Math.max(0, Math.ceil((deadline - Date.now()) / 1000));
  part('qr-left').hidden = deadline === 0;
  text('qr-clock', `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, '0')}`);
}

// The next picture is ready before it takes the place of the one on the screen.
async function draw(payload) {
  const image = part('qr-image');
  if (!image || payload === drawn) return;
  drawn = payload;
  const next = image.cloneNode();
  next.src = `${box.dataset.svg}&n=${Date.now()}`;
  try {
    await next.decode();
    if (drawn === payload) part('qr-image').replaceWith(next);
  } catch {
    if (drawn === payload) drawn = '';
  }
}

function watch() {
  watcher = hosted({ events: box.dataset.events, state: box.dataset.state });
  const on = (type, then) => watcher.addEventListener(type, (event) => then(event.detail));
  on('qr', (detail) => {
    draw(detail.qr.payload);
    show('pending', detail);
  });
  on('scanned', (detail) => {
    text('check-code', detail.check_code);
    show('scanned', detail);
  });
  on('approved', (detail) => {
    text('qr-name', detail.name);
    show('approved', detail);
    // The question is on the screen now, unless somebody is typing a password.
    const typed = part('password');
    if (!typed || !typed.value) part('qr-continue').focus();
  });
  for (const end of ['denied', 'cancelled', 'redeemed', 'replaced']) on(end, () => show(end));
  on('failed', () => show('expired'));
  on('expired', () => {
    if (!renewUnasked()) show('expired');
  });
  on('connection', ({ live }) => {
    clearTimeout(lost);
    if (live) part('qr-lost').hidden = true;
    else lost = setTimeout(() => { part('qr-lost').hidden = false; }, lostMillis);
  });
  watcher.start();
}

// renewUnasked gets another code while somebody may be looking, but not for ever.
function renewUnasked() {
  if (document.hidden || plain || rounds >= mostRounds) return false;
  rounds++;
  renew();
  return true;
}

// renew does what the button does, without leaving the page: what is typed beside it stays.
async function renew() {
  if (renewing) return;
  renewing = true;
  watcher.close();
  const next = part('qr-form').elements.next.value;
  const same = { credentials: 'same-origin', cache: 'no-store', redirect: 'manual' };
  try {
    const body = new URLSearchParams(new FormData(part('qr-form')));
    const answer = await fetch(part('qr-new').formAction, { ...same, method: 'POST', body });
    if (answer.type !== 'opaqueredirect') throw new Error(`status ${answer.status}`);
    const page = await fetch(next, { ...same, headers: { Accept: 'text/html' } });
    if (page.type === 'opaqueredirect') {
      location.assign(next); // signed in meanwhile, in another tab
      return;
    }
    await take(new DOMParser().parseFromString(await page.text(), 'text/html'));
    watch();
  } catch {
    plain = true;
    show('expired');
  } finally {
    renewing = false;
  }
}

// take puts the QR code of an answered page in the place of the one that is shown.
async function take(page) {
  const code = document.adoptNode(page.getElementById('qr-code'));
  const image = code.querySelector('img');
  if (image) await image.decode();
  const focused = box.contains(document.activeElement);
  for (const { name, value } of page.getElementById('qr').attributes) box.setAttribute(name, value);
  part('qr-code').replaceWith(code);
  part('qr-form').replaceWith(page.getElementById('qr-form'));
  // A live region that is replaced says nothing: its content is.
  part('qr-state').replaceChildren(...page.getElementById('qr-state').childNodes);
  // The seal of the other form would run out with the page.
  const seal = page.querySelector('#sign-in-form [name=csrf]');
  if (seal && part('sign-in-form')) part('sign-in-form').elements.csrf.value = seal.value;
  if (focused) part('qr-title').focus();
  drawn = '';
  tick();
}

if (box) {
  part('qr-live').dataset.running = 'yes';
  box.addEventListener('click', (event) => {
    if (event.target.closest('#qr-new') && !plain) {
      event.preventDefault();
      rounds = 0;
      renew();
    } else if (event.target.closest('#qr-here')) {
      watch();
    }
  });
  // What is about to be used must not read as used already.
  document.addEventListener('submit', (event) => {
    if (event.defaultPrevented) return;
    left = true;
    watcher.close();
  });
  addEventListener('pageshow', () => {
    if (left) location.reload();
  });
  document.addEventListener('visibilitychange', () => {
    if (box.dataset.status === 'expired') renewUnasked();
  });
  setInterval(tick, 1000);
  watch();
}
