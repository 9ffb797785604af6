import { request } from 'node:http';
import { BackupError } from '../core/errors.ts';
import type { WalAgentStatus } from '../operations/wal-agent.ts';

const ANSWER_MS = 3_000;

/** Asks the worker on this host how archiving stands. @throws BackupError `agent-unavailable` */
export async function readAgentStatus(socketPath: string): Promise<WalAgentStatus> {
  const body = await new Promise<string>((resolve, reject) => {
    const refuse = (why: string) =>
      reject(new BackupError('agent-unavailable', `no worker answers on ${socketPath}: ${why}`));
    const call = request({ socketPath, path: '/status', timeout: ANSWER_MS }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (piece: string) => (text += piece));
      response.on('end', () => resolve(text));
      response.on('error', ({ message }) => refuse(message));
    });
    call.on('timeout', () => call.destroy(new Error(`no answer within ${ANSWER_MS / 1000} s`)));
    call.on('error', ({ message }) => refuse(message));
    call.end();
  });
  const parsed: unknown = JSON.parse(body);
  if (typeof parsed === 'object' && parsed !== null && 'version' in parsed && parsed.version === 1) {
    return parsed as WalAgentStatus;
  }
  throw new BackupError('agent-unavailable', `what answers on ${socketPath} is no worker of this version`, {
    hint: 'restart walkeep worker',
  });
}
