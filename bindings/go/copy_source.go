package mesh

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
)

// copySource is where an answer is copied from; it remembers its own failure, which says nothing of the peer.
type copySource struct {
	io.Reader
	failed error
}

func (s *copySource) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && err != io.EOF {
		s.failed = err
	}
	return n, err
}

// isToBlame says whether the source is to blame for an error of copying: a file is by what it says itself.
func (s *copySource) isToBlame(err error) bool {
	var ofFile *fs.PathError
	return s.failed != nil && errors.Is(err, s.failed) || errors.As(err, &ofFile)
}

// isKernels says whether the kernel may copy from there by itself, which it does only for a source that is seen.
func isKernels(src io.Reader) bool {
	if limited, ok := src.(*io.LimitedReader); ok {
		src = limited.R
	}
	switch src.(type) {
	case *os.File, *net.TCPConn, *net.UnixConn:
		return true
	}
	return false
}
