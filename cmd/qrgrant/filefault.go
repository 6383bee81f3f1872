package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// plain is the text of err with what the system said about a file in words for people.
func plain(err error) string {
	text := err.Error()
	var path *fs.PathError
	if errors.As(err, &path) {
		return strings.Replace(text, path.Error(), wordFile(path.Op, path.Path, path.Err), 1)
	}
	var link *os.LinkError
	if errors.As(err, &link) {
		return strings.Replace(text, link.Error(), wordFile(link.Op, link.New, link.Err), 1)
	}
	return text
}

// wordFile says what is wrong with the file called name.
func wordFile(op, name string, err error) string {
	switch {
	case name == "":
		return "the name of the file is empty"
	case errors.Is(err, fs.ErrNotExist):
		return name + " does not exist"
	case errors.Is(err, fs.ErrExist):
		return name + " exists already"
	case errors.Is(err, fs.ErrPermission):
		return "this user may not " + op + " " + name
	case errors.Is(err, syscall.EISDIR):
		return name + " is a directory, not a file"
	case errors.Is(err, syscall.ENOTDIR):
		return name + " lies below something that is not a directory"
	case errors.Is(err, syscall.EROFS):
		return name + " is on a disk that can only be read"
	case errors.Is(err, syscall.ENOSPC):
		return "there is no space left on the disk of " + name
	case errors.Is(err, syscall.ENAMETOOLONG):
		return "the name of the file is too long"
	}
	return fmt.Sprintf("cannot %s %s: %v", op, name, err)
}
