// The application: which screen is on, and what leads from one to the next.
import { scan } from './api.js';
import { Fault } from './ask.js';
import { card } from './card.js';
import { devices } from './devices.js';
import { button, el, known, language, say, show, t } from './dom.js';
import { held } from './dpop.js';
import { metadata, returned, signedIn, signIn, signOut } from './oauth.js';
import { hear, tell as tellOuter } from './outer.js';
import { open } from './scanner.js';
import { forget, keep, kept } from './store.js';

const { issuer, url } = document.documentElement.dataset;

// The only address that Trusted Types let through.
const worker = window.trustedTypes?.createPolicy('worker', { createScriptURL: () => '/sw.js' }).createScriptURL('') ?? '/sw.js';
navigator.serviceWorker?.register(worker).catch(() => {});

document.documentElement.lang = language === 'zh' ? 'zh-CN' : 'en';
start();

async function start() {
  // The provider leads back to the registered address, and what is kept belongs to that one.
  if (location.origin !== url) {
    location.replace(url + location.pathname);
    return;
  }
  if (!isSecureContext) {
    welcome('insecure');
    return;
  }
  try {
    await returned();
    if (await signedIn()) await held();
  } catch (fault) {
    await failed(fault);
    return;
  }
  const person = await signedIn();
  tellOuter({ type: 'state', signedIn: Boolean(person) });
  if (!person) welcome();
  else if (location.pathname === '/devices') await guarded(() => devices());
  else await resume();
}

// What the page around a framed application says; see outer.js.
hear({
  scan: text => guarded(async () => {
    if (!await refers(text)) throw new Fault('foreign');
    await claim({ payload: text, entry: 'scanner' });
  }),
  // What is in the address is checked when it is read.
  returned: address => { if (address.startsWith(url + '/?')) location.replace(address); },
});

// guarded shows what went wrong.
async function guarded(work) {
  try {
    await work();
  } catch (fault) {
    await failed(fault);
  }
}

// failed is the screen for a fault that nothing else deals with.
async function failed(fault, ...next) {
  if (!(fault instanceof Fault)) console.error(fault);
  const key = fault instanceof Fault ? fault.key : 'server_error';
  if (fault.over || !await signedIn()) {
    welcome(key);
    return;
  }
  if (!next.length) next = [button('again', () => location.reload(), 'primary'), button('home', home)];
  const title = key === 'insufficient_user_authentication' ? 'sign_in_again' : 'failed';
  show(t(title), el('p', { id: 'fault', class: 'fault' }, words(fault)), el('div', { class: 'buttons' }, next));
}

function words(fault) {
  if (fault.key === 'rate_limited') return t('rate_limited', duration(fault.detail.retryAfter));
  if (fault.key === 'reported') return t('asker_reported', duration(fault.detail.retryAfter));
  return known(fault.key) ? t(fault.key, issuer) : t('server_error');
}

const duration = seconds => new Intl.NumberFormat(language, seconds > 90
  ? { style: 'unit', unit: 'minute', unitDisplay: 'long' }
  : { style: 'unit', unit: 'second', unitDisplay: 'long' }).format(seconds > 90 ? Math.ceil(seconds / 60) : Math.max(seconds, 1));

function welcome(fault) {
  show(t('app'),
    fault && el('p', { id: 'fault', class: 'fault' }, t(known(fault) ? fault : 'server_error', issuer)),
    el('p', {}, t('welcome')),
    el('p', { class: 'small' }, t('server'), ' ', issuer),
    button('sign_in', () => guarded(() => signIn()), 'primary'));
}

async function home() {
  const person = await signedIn();
  if (!person) return welcome();
  history.replaceState(null, '', '/');
  const field = el('input', { id: 'code', type: 'text', autocomplete: 'off', autocapitalize: 'characters', spellcheck: 'false', maxlength: '300', 'aria-describedby': 'code-hint code-error' });
  const error = el('p', { id: 'code-error', class: 'fault', role: 'alert', hidden: true });
  const form = el('form', {
    submit: event => {
      event.preventDefault();
      readTyped(field.value).then(claim, fault => {
        error.hidden = false;
        error.textContent = words(fault);
        field.focus();
      });
    },
  },
  el('label', { for: 'code' }, t('code_label')), field, el('p', { id: 'code-hint', class: 'small' }, t('code_hint')), error,
  el('div', { class: 'buttons' }, el('button', { id: 'continue', type: 'submit' }, t('continue'))));
  show(t('home_title'),
    el('p', { id: 'person' }, t('signed_in_as'), ' ', el('strong', {}, person.name ?? ''), el('br'), el('span', { class: 'small' }, issuer)),
    el('p', { class: 'notice' }, t('only_yours')),
    button('scan', look, 'primary', 'wide'), form,
    el('nav', { class: 'buttons' }, el('a', { id: 'devices', href: '/devices', class: 'button' }, t('devices')), button('sign_out', () => guarded(signOut))));
}

// refers reports whether text is a QR code or a link of this issuer. Nothing else is ever sent
// or followed.
async function refers(text) {
  const { qr } = await metadata();
  return text.startsWith(qr.payload_prefix) || text.startsWith(issuer + '/device?user_code=');
}

const alphabet = /[BCDFGHJKLMNPQRSTVWXZ]/g;

// readTyped reads a code in any spelling, or a pasted text, which counts as a link: it did not
// come through the camera.
async function readTyped(text) {
  const typed = text.normalize('NFKC').trim();
  if (await refers(typed)) return { payload: typed, entry: 'link' };
  if (typed.includes('://')) throw new Fault('foreign');
  const letters = typed.toUpperCase().match(alphabet) ?? [];
  if (letters.length !== 8) throw new Fault('malformed');
  return { user_code: letters.join(''), entry: 'typed' };
}

// look scans until a code of this issuer is found.
async function look() {
  const video = el('video', { playsinline: true, 'aria-label': t('viewfinder') });
  video.muted = true;
  const hint = el('p', { id: 'hint' }, t('scan_hint'));
  const stop = button('stop', () => end());
  show(t('scan_title'), video, hint, el('div', { class: 'buttons' }, stop));
  let camera;
  let ended = false;
  const end = () => {
    ended = true;
    camera?.stop();
    document.removeEventListener('visibilitychange', hidden);
    home();
  };
  // A camera that nobody looks through is off.
  const hidden = () => document.hidden && end();
  document.addEventListener('visibilitychange', hidden);
  try {
    camera = await open(video);
    if (ended) camera.stop();
    while (!ended) {
      const text = await camera.read().catch(fault => (tell(hint, words(fault)), ''));
      if (ended || !text) continue;
      if (!await refers(text)) {
        tell(hint, t('foreign', issuer));
        continue;
      }
      ended = true;
      camera.stop();
      document.removeEventListener('visibilitychange', hidden);
      await claim({ payload: text, entry: 'scanner' });
    }
  } catch (fault) {
    document.removeEventListener('visibilitychange', hidden);
    camera?.stop();
    if (!ended) await failed(fault, button('scan_again', look), button('type_instead', home, 'primary'));
  }
}

// tell writes beside the picture and tells screen readers, once.
function tell(hint, text) {
  if (hint.textContent === text) return;
  hint.textContent = text;
  hint.className = 'fault';
  say(text);
}

// What is being claimed outlives a reload and a new sign-in: the provider lets the claimer ask
// again, and the other device must not be left waiting.
const remember = pending => keep('pending', pending);
const done = () => forget('pending');

async function resume() {
  const pending = await kept('pending');
  return pending && Date.now() - pending.at < 240_000 ? claim(pending.request, pending) : home();
}

// claim asks who is behind a code, and shows the card.
async function claim(request, pending = { request, at: Date.now() }) {
  await remember(pending);
  show(t('asking'));
  let answer;
  try {
    answer = await scan(request);
  } catch (fault) {
    await unclaimed(fault, pending);
    return;
  }
  card(answer, { done, home, again: look });
}

// unclaimed says why there is no card, and what helps.
async function unclaimed(fault, pending) {
  switch (fault.key) {
    case 'offline':
    case 'server_error':
      return failed(fault, button('again', () => claim(pending.request, pending), 'primary'), button('home', () => done().then(home)));
    case 'insufficient_user_authentication':
      if (!pending.steppedUp) {
        const { max_age: maxAge, acr_values: acr } = fault.detail;
        const extra = { ...(maxAge !== undefined && { max_age: maxAge }), ...(acr && { acr_values: acr }) };
        const stepUp = () => guarded(async () => {
          await remember({ ...pending, at: Date.now(), steppedUp: true });
          await signIn(Object.keys(extra).length ? extra : { prompt: 'login' });
        });
        return failed(fault, button('home', () => done().then(home)), button('sign_in_again', stepUp, 'primary'));
      }
      fault = new Fault('step_up_failed');
      break;
    case 'approver_not_allowed':
    case 'insufficient_scope':
      await done();
      return failed(fault, button('home', home), button('sign_in_again', () => guarded(() => signIn({ prompt: 'login' })), 'primary'));
  }
  await done();
  // Who has to wait is not invited to try at once.
  if (fault.detail.retryAfter) return failed(fault, button('home', home, 'primary'));
  return failed(fault, button('scan_again', look, 'primary'), button('home', home));
}
