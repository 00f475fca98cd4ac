"""Certificates for tests of TLS."""
import os
import subprocess


def certificates(folder):
    """Two authorities; ours signs both sides, the other one a stranger. A function: the options of one of them."""
    def run(*args):
        subprocess.run(["openssl", *args], check=True, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    for ca in ("ca", "other"):
        run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", ca + ".key", "-out", ca + ".pem", "-days", "2",
            "-subj", "/CN=" + ca)
    for name, ca in (("here", "ca"), ("there", "ca"), ("stranger", "other")):
        run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", name + ".key", "-out", name + ".csr", "-subj", "/CN=" + name)
        with open(os.path.join(folder, "ext"), "w", encoding="ascii") as f:
            f.write("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        run("x509", "-req", "-in", name + ".csr", "-CA", ca + ".pem", "-CAkey", ca + ".key", "-CAcreateserial", "-days",
            "2", "-extfile", "ext", "-out", name + ".pem")

    def options(name, ca="ca"):
        path = lambda f: os.path.join(folder, f)
        return ["--tls-cert", path(name + ".pem"), "--tls-key", path(name + ".key"), "--tls-ca", path(ca + ".pem")]
    return options
