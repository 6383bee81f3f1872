// Keeps the QR code of the sign-in page fresh and says what became of it. The page works without
// this script: a frame on it then looks again by itself.
(function () {
  'use strict';
  var box = document.getElementById('qr');
  if (!box || !window.XMLHttpRequest) { return; }
  var image = document.getElementById('qr-image');
  var seq = box.getAttribute('data-seq');
  var status = box.getAttribute('data-status');
  var payload = '';
  var failures = 0;
  var request = null;

  function show(name) {
    var parts = box.querySelectorAll('[data-show]');
    for (var i = 0; i < parts.length; i++) {
      parts[i].hidden = parts[i].getAttribute('data-show').split(' ').indexOf(name) < 0;
    }
  }

  function text(id, value) {
    var element = document.getElementById(id);
    if (element) { element.textContent = value || ''; }
  }

  function apply(state) {
    seq = String(state.qr_seq);
    if (state.qr && image && state.qr.payload !== payload) {
      payload = state.qr.payload;
      image.src = box.getAttribute('data-svg') + '&n=' + Date.now();
    }
    if (state.qr_status === status) { return; }
    status = state.qr_status;
    box.setAttribute('data-status', status);
    text('check-code', state.check_code);
    text('qr-name', state.name);
    show(status);
    // The question is on the screen now, unless somebody is typing a password.
    var typed = document.getElementById('password');
    if (status === 'approved' && (!typed || !typed.value)) {
      document.getElementById('qr-continue').focus();
    }
  }

  function again(seconds) { window.setTimeout(poll, seconds * 1000); }

  function poll() {
    if (['pending', 'scanned', 'approved'].indexOf(status) < 0) { return; }
    request = new XMLHttpRequest();
    request.open('GET', box.getAttribute('data-state') + '&qr_seq=' + encodeURIComponent(seq));
    request.setRequestHeader('Prefer', 'wait=25');
    request.timeout = 40000;
    request.onload = function () {
      if (request.status === 404) { show('expired'); return; }
      if (request.status !== 200) { failed(); return; }
      var was = seq;
      failures = 0;
      apply(JSON.parse(request.responseText));
      // An answer that was not held, and tells nothing new, must not be asked for at once.
      again(request.getResponseHeader('Preference-Applied') || was !== seq ? 0 : 5);
    };
    request.onerror = failed;
    request.ontimeout = failed;
    request.send();
  }

  function failed() {
    failures++;
    again(Math.min(60, 5 * failures));
  }

  window.addEventListener('pagehide', function () { if (request) { request.abort(); } });
  window.addEventListener('pageshow', function (event) { if (event.persisted) { window.location.reload(); } });
  poll();
})();
