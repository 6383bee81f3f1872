// The service worker of one version. It keeps the application's own files, never an answer of
// the provider, and nothing that belongs to a person.
const cacheName = 'shell-VERSION';
const statics = 'FILES'.split(' ').map(name => '/static/VERSION/' + name);
const pages = ['/', '/devices'];

self.addEventListener('install', event => {
  event.waitUntil((async () => {
    await (await caches.open(cacheName)).addAll([...pages, ...statics]);
    await self.skipWaiting();
  })());
});

self.addEventListener('activate', event => {
  event.waitUntil((async () => {
    for (const name of await caches.keys()) {
      if (name !== cacheName) await caches.delete(name);
    }
    await self.clients.claim();
  })());
});

self.addEventListener('fetch', event => {
  const { request } = event;
  const url = new URL(request.url);
  if (request.method !== 'GET' || url.origin !== location.origin) return;
  if (pages.includes(url.pathname)) {
    // The network first, so that a new version arrives. What is kept was asked for without the
    // code of a sign-in, and so is what is looked up.
    event.respondWith(fetch(request).catch(() => caches.match(url.pathname)));
  } else if (statics.includes(url.pathname)) {
    event.respondWith(caches.match(url.pathname).then(kept => kept || fetch(request)));
  }
});
