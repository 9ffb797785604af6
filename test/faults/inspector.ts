import { until } from '../support/wait.ts';

/**
 * Runs JavaScript in another Node process, started with `--inspect=127.0.0.1:PORT`, on its main thread: to block it, or
 * to fill its memory. Resolves when the expression has ended.
 */
export async function evaluateIn(port: number, expression: string): Promise<void> {
  const targets = await until('the inspector', async () => {
    const answer = await fetch(`http://127.0.0.1:${port}/json/list`);
    return (await answer.json()) as { webSocketDebuggerUrl: string }[];
  });
  const socket = new WebSocket(targets[0]?.webSocketDebuggerUrl ?? '');
  try {
    await new Promise((resolve, reject) => {
      socket.addEventListener('error', () => reject(new Error('the inspector hung up')));
      socket.addEventListener('close', () => reject(new Error('the process ended')));
      socket.addEventListener('message', resolve);
      socket.addEventListener('open', () =>
        socket.send(JSON.stringify({ id: 1, method: 'Runtime.evaluate', params: { expression } })),
      );
    });
  } finally {
    socket.close();
  }
}
