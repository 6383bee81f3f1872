// Elements, and the one place that reads what the server wrote into the page.
export const { issuer, client, phone, web } = document.documentElement.dataset;

// The key stands behind the # of the printed address.
export const key = location.hash.slice(1);

export const $ = id => document.getElementById(id);

// el makes an element. Children are elements or text, never markup.
export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === 'function') element.addEventListener(key, value);
    else if (value === true) element.setAttribute(key, '');
    else if (value !== false && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.flat(Infinity).filter(child => child || child === 0));
  return element;
}

export const button = (id, text, click, kind = '') => el('button', { id, type: 'button', class: kind, click }, text);

// ask asks the page's own server.
export const ask = (path, options = {}) => fetch(path, { cache: 'no-store', ...options, headers: { ...options.headers, authorization: 'Bearer ' + key } });

export function trouble(text) {
  $('trouble').textContent = text;
  $('trouble').hidden = !text;
}
