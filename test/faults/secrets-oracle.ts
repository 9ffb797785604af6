/** O4: nothing that others can read holds a secret. */
import { existsSync, readFileSync } from 'node:fs';
import type { Client } from '@temporalio/client';
import { historyToJSON } from '@temporalio/common/lib/proto-utils.js';
import { descendantsOf } from '../support/processes.ts';

export interface Readable {
  readonly client: Client;
  /** What programs wrote, and what they serve. */
  readonly texts: readonly string[];
  /** Whose command lines and environments, and those of all they started, are read. */
  readonly pids: readonly number[];
}

/** @returns how many histories were read */
export async function requireNoSecrets(secrets: readonly string[], readable: Readable): Promise<number> {
  const { client, texts, pids } = readable;
  const spellings = secrets.flatMap((secret) => [
    secret,
    encodeURIComponent(secret),
    Buffer.from(secret).toString('base64').replace(/=+$/, ''),
  ]);
  const look = (where: string, text: string): void => {
    const found = spellings.find((spelling) => text.includes(spelling));
    if (found !== undefined)
      throw new Error(`O4: ${where} holds a secret (spelled with ${found.length} bytes)`);
  };
  let histories = 0;
  for await (const { workflowId, runId } of client.workflow.list()) {
    const text = historyToJSON(await client.workflow.getHandle(workflowId, runId).fetchHistory());
    look(`the history of ${workflowId}`, text);
    // Payloads are base64, where a secret in the middle has another spelling.
    for (const [, data = ''] of text.matchAll(/"data": *"([^"]*)"/g))
      look(`a payload of ${workflowId}`, Buffer.from(data, 'base64').toString('latin1'));
    histories += 1;
  }
  for (const [at, text] of texts.entries()) look(`output ${at}`, text);
  for (const pid of pids.flatMap((one) => [one, ...descendantsOf(one)])) {
    for (const file of ['cmdline', 'environ']) {
      const path = `/proc/${pid}/${file}`;
      if (existsSync(path)) look(path, readFileSync(path, 'latin1'));
    }
  }
  return histories;
}
