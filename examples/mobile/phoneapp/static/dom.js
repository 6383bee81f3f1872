// Elements, texts and the one place that changes what is on the screen.
import en from './text.en.js';
import zh from './text.zh.js';

const chinese = navigator.language.toLowerCase().startsWith('zh');
export const language = chinese ? 'zh' : 'en';
const texts = chinese ? zh : en;

// t returns a text; some have gaps.
export function t(key, ...values) {
  const text = texts[key];
  return typeof text === 'function' ? text(...values) : text ?? key;
}

// known reports whether there is a text.
export const known = key => key in texts;

// el makes an element. Children are elements or text, never markup.
export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === 'function') element.addEventListener(key, value);
    else if (value === true) element.setAttribute(key, '');
    else if (value !== false && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter(child => child || child === 0));
  return element;
}

export const button = (id, click, ...classes) => el('button', { id, type: 'button', class: classes.join(' '), click: event => press(event.currentTarget, click) }, t(id));

// press runs what a button does; it does nothing twice at a time.
async function press(pressed, work) {
  if (pressed.getAttribute('aria-busy')) return;
  pressed.setAttribute('aria-busy', 'true');
  try {
    await work();
  } finally {
    pressed.removeAttribute('aria-busy');
  }
}

// show replaces the screen. The focus goes to its heading, which a screen reader then reads.
export function show(title, ...children) {
  const heading = el('h1', { tabindex: '-1' }, title);
  document.title = title + ' · ' + t('app');
  document.getElementById('main').replaceChildren(heading, ...children.flat().filter(Boolean));
  heading.focus();
  scrollTo(0, 0);
}

// say tells what has changed on the same screen.
export function say(text) {
  document.getElementById('status').textContent = text;
}
