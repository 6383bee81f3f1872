// Hands the frame of a scanned QR code to the server while it is fresh. It stands in the fragment
// of the address, which browsers keep to themselves; from here on it stands nowhere else.
(function () {
  'use strict';
  var form = document.getElementById('hold');
  var frame = window.location.hash.slice(1);
  if (!form || !frame) { return; }
  window.history.replaceState(null, '', window.location.pathname);
  form.elements.frame.value = frame.slice(0, 64);
  form.submit();
})();
