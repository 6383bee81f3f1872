// Sends the only form of a page that asks nothing. Without script the person presses its button.
document.forms[0].submit();
