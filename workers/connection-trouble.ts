import type { NativeConnectionOptions } from '@temporalio/worker';
import { isIP } from 'node:net';
import { connect } from 'node:tls';

const WITHIN_MS = 3_000;
/** A server that wants a certificate says so after the handshake. */
const REFUSED_WITHIN_MS = 500;

/**
 * Why a connection to Temporal fails, where TLS is why: Temporal's libraries only say that it was closed. Asks the
 * server itself, with the same certificates.
 *
 * @returns half a sentence; `undefined` when TLS is not the reason
 */
export async function explainTrouble({
  address,
  tls,
}: Pick<NativeConnectionOptions, 'address' | 'tls'>): Promise<string | undefined> {
  const match = /^\[?([^\]/]+?)\]?:(\d+)$/.exec(address ?? '');
  if (!match) return undefined;
  const given = typeof tls === 'object' && tls !== null ? tls : {};
  const { clientCertPair, serverRootCACertificate, serverNameOverride } = given;
  const host = match[1] ?? '';
  const name = serverNameOverride ?? host;
  const found = await new Promise<'speaks TLS' | Error | undefined>((resolve) => {
    const socket = connect({
      host,
      port: Number(match[2]),
      ALPNProtocols: ['h2'],
      ...(isIP(name) === 0 && { servername: name }),
      ...(clientCertPair && { cert: Buffer.from(clientCertPair.crt), key: Buffer.from(clientCertPair.key) }),
      ...(serverRootCACertificate && { ca: Buffer.from(serverRootCACertificate) }),
      // Without TLS asked for the question is only whether there is TLS.
      rejectUnauthorized: Boolean(tls),
    });
    const end = (what: 'speaks TLS' | Error | undefined) => {
      socket.destroy();
      resolve(what);
    };
    socket.setTimeout(WITHIN_MS, () => end(undefined));
    socket.once('error', end);
    socket.once('close', () => end(undefined));
    socket.once('secureConnect', () => setTimeout(() => end('speaks TLS'), REFUSED_WITHIN_MS));
  });
  if (!tls) return found === 'speaks TLS' ? 'it speaks TLS, and TEMPORAL_TLS is not set' : undefined;
  if (!(found instanceof Error)) return undefined;
  return reasonOf(found, clientCertPair !== undefined);
}

/** OpenSSL's words, and what they mean here. */
function reasonOf(error: Error, hasCertificate: boolean): string | undefined {
  const code = 'code' in error ? String(error.code) : '';
  if (code === 'ECONNREFUSED' || code === 'ENOTFOUND' || code === 'EAI_AGAIN') return undefined;
  if (
    /CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE|BAD_CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED|CERTIFICATE_(EXPIRED|UNKNOWN)/.test(
      code,
    )
  ) {
    return hasCertificate
      ? 'it refuses the client certificate that it was given'
      : 'it wants a client certificate: TEMPORAL_TLS_CLIENT_CERT_PATH and TEMPORAL_TLS_CLIENT_KEY_PATH';
  }
  if (/WRONG_VERSION_NUMBER|PACKET_LENGTH_TOO_LONG/.test(code)) return 'TLS is asked for, and it speaks none';
  if (code === 'ECONNRESET') return 'it ended the TLS handshake';
  return `TLS: its certificate is not accepted: ${error.message}`;
}
