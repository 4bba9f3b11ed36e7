-- The supplied texts of notices about family.
select loyalty_private.supply_text(v.kind, v.language, v.whom, v.proof, v.subject, v.text_before, v.text_after, v.sms_body)
  from (values
('family_approval', 'ja', 'member', 'link',
$$【{{ program.name }}】ご家族のご招待のご確認$$,
$${{ name }}様をご家族として招待するお申し込みを承りました。
次のURLを開いて承認いただくと、{{ name }}様にご案内をお送りします。
$$,
$$お申し込みから{{ minutes | duration }}以内に、一度だけご利用いただけます。

お心当たりのない場合は、URLを開かずに、すぐにパスワードを変更してください。承認されるまで、ご案内は送られません。
$$,
$$【{{ program.name }}】ご家族のご招待の承認({{ minutes | duration }}以内): {{ link }} 心当たりがなければ開かず、パスワードを変更してください。$$),
('family_approval', 'en', 'member', 'link',
$${{ program.name }}: approve an invitation of your family$$,
$$You asked to invite {{ name }} as one of your family.
Please open this link to approve it; the invitation is sent then.
$$,
$$It is good once, within {{ minutes | duration }} of asking.

If you did not ask for it, please do not open the link and change your password at once; nobody is invited before you approve.
$$,
$${{ program.name }}: approve the invitation of your family within {{ minutes | duration }}: {{ link }} If it was not you, do not open it and change your password.$$),
('family_invitation', 'ja', 'invited', 'link',
$$【{{ program.name }}】ご家族からのご招待$$,
$$ご家族の{% if member.name %}{{ member.name }}様{% else %}会員様{% endif %}から、{{ program.name }}へのご招待です。
次のURLを開き、生年月日とパスワードを入力してご登録ください。
$$,
$${{ minutes | duration }}以内に、一度だけご利用いただけます。

お心当たりのない場合は、このメールを破棄してください。登録は行われません。
$$,
$$【{{ program.name }}】ご家族からのご招待です。ご登録({{ minutes | duration }}以内): {{ link }} 心当たりがなければ破棄してください。$$),
('family_invitation', 'en', 'invited', 'link',
$${{ program.name }}: an invitation from your family$$,
$${% if member.name %}{{ member.name }}, who is of your family, invites{% else %}One of your family invites{% endif %} you to {{ program.name }}.
Please open this link and register with your birth date and a password.
$$,
$$It is good once, within {{ minutes | duration }}.

If this means nothing to you, please ignore this mail; nothing will be registered.
$$,
$${{ program.name }}: your family invites you. Register within {{ minutes | duration }}: {{ link }} If this means nothing to you, ignore it.$$),
('family_ended', 'ja', 'member', 'none',
$$【{{ program.name }}】ご家族としてのご利用が終了しました$$,
$${{ today | date }}({{ today | weekday }})に、{{ name }}様のご家族としてのご利用が終了しました。今後、{{ name }}様がご家族として会員様のポイントを見ること、使うことはできません。
$$,
$$お心当たりのない場合は、お問い合わせください。
$$,
$$【{{ program.name }}】ご家族としてのご利用が終了しました。心当たりがなければ、お問い合わせください。$$),
('family_ended', 'en', 'member', 'none',
$${{ program.name }}: access as family has ended$$,
$$On {{ today | date }} the access of {{ name }} as family ended: the member's points can no longer be seen or spent by {{ name }}.
$$,
$$If you did not expect this, please contact us.
$$,
$${{ program.name }}: an access as family has ended. If you did not expect this, contact us.$$)
) as v (kind, language, whom, proof, subject, text_before, text_after, sms_body);
