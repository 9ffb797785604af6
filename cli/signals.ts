/** Resolves at the first signal that asks to end; later ones change nothing, the work ends in its own order. */
export async function signalled(): Promise<void> {
  await new Promise<void>((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGQUIT'] as const) process.on(signal, () => resolve());
  });
}
